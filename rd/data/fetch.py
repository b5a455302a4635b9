"""Download of the official EMPATHETICDIALOGUES archive: progress bar, resume, checksum, the three CSV files."""

import gzip
import hashlib
import http.client
import os
import shutil
import tarfile
import urllib.error
import urllib.request
import zlib
from pathlib import Path
from typing import IO

from tqdm import tqdm

from rd.data.records import SPLITS
from rd.errors import UserError
from rd.locks import locked

URL = "https://dl.fbaipublicfiles.com/parlai/empatheticdialogues/empatheticdialogues.tar.gz"
SHA256 = "56f234d77b7dd1f005fd365bb17769cfe346c3c84295b69bc069c8ccb83be03d"
SIZE = 28_022_709
CHUNK = 1 << 16
TIMEOUT = 30.0


def fetch(out: str | Path, url: str = URL, sha256: str = SHA256, size: int | None = None) -> Path:
    """Put train.csv, valid.csv and test.csv into `out` and return it; nothing is done where they are already there.

    An interrupted download stays in `out` as a .part file, and the next call goes on from its end (HTTP Range).
    size: bytes expected where the server does not tell (the official archive's is known); the checksum decides.
    Raises UserError: no network, an answer other than the file, an interruption, a wrong checksum, a foreign archive.
    """
    out = Path(out)
    size = SIZE if size is None and url == URL else size
    part = out / (url.rsplit("/", 1)[-1] + ".part")
    if not part.exists() and all((out / f"{split}.csv").is_file() for split in SPLITS):
        return out
    try:
        with locked(out):
            _download(url, part, size)
            _verify(url, part, sha256)
            _extract(part, out)
            part.unlink()
    except OSError as error:
        raise UserError(
            f"{out}: cannot be written ({error.strerror or error}); choose another folder with --out"
        ) from None
    return out


def _download(url: str, part: Path, size: int | None) -> None:
    """Fill `part` to its end. Raises UserError where the network or the server fails."""
    have = part.stat().st_size if part.exists() else 0
    request = urllib.request.Request(url, headers={"Range": f"bytes={have}-"} if have else {})
    try:
        response = urllib.request.urlopen(request, timeout=TIMEOUT)
    except urllib.error.HTTPError as error:
        if error.code == 416 and have:  # nothing lies beyond our end: the download was complete
            return
        raise UserError(f"{url}: the server answered {error.code} {error.reason}; get the archive by hand") from None
    except (OSError, http.client.HTTPException, ValueError) as error:
        reason = getattr(error, "reason", error)
        raise UserError(
            f"{url}: no connection ({reason}); check the network, or train on the bundled mini corpus"
        ) from None
    with response:
        if response.status != 206:  # the server ignored Range: it sends the file from its start
            have = 0
        length = response.headers.get("Content-Length")
        total = have + int(length) if length and length.isdecimal() else size
        got = _copy(response, part, have, total, url)
    if total is not None and got < total:
        raise UserError(f"{url}: interrupted at {got:,} of {total:,} bytes; run the command again to go on from there")


def _copy(response: http.client.HTTPResponse, part: Path, have: int, total: int | None, url: str) -> int:
    """Append the answer to `part` (from its start if have is 0); bytes that `part` then holds."""
    with (
        part.open("ab" if have else "wb") as file,
        tqdm(total=total, initial=have, unit="B", unit_scale=True, desc=part.stem) as bar,
    ):
        while chunk := _read(response, url):
            file.write(chunk)
            bar.update(len(chunk))
        return file.tell()


def _read(response: IO[bytes], url: str) -> bytes:
    try:
        return response.read(CHUNK)
    except (OSError, http.client.HTTPException) as error:
        raise UserError(f"{url}: the connection broke ({error}); run the command again to go on from there") from None


def _verify(url: str, part: Path, sha256: str) -> None:
    with part.open("rb") as file:
        digest = hashlib.file_digest(file, "sha256").hexdigest()
    if digest != sha256:
        size = part.stat().st_size
        part.unlink()  # going on from damaged bytes could never succeed
        raise UserError(
            f"{url}: wrong checksum: sha256 {digest} of {size:,} bytes, expected {sha256}; "
            "the download was deleted, run the command again"
        )


def _extract(archive: Path, out: Path) -> None:
    """The three CSV files of a .tar.gz into `out`, each put in place whole; no other member is touched."""
    folder = out / ".fetch.part"  # one name: what a kill leaves does not pile up
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir()
    try:
        with tarfile.open(archive, "r:gz") as tar:
            members = {Path(member.name).name: member for member in tar if member.isfile()}
            for split in SPLITS:
                name = f"{split}.csv"
                if name not in members:
                    raise UserError(f"{archive}: no {name} in the archive; is it that of EMPATHETICDIALOGUES?")
                tar.extract(members[name].replace(name=name), folder, filter="data")
        for split in SPLITS:
            os.replace(folder / f"{split}.csv", out / f"{split}.csv")
    except (tarfile.TarError, gzip.BadGzipFile, EOFError, zlib.error) as error:
        raise UserError(f"{archive}: not a readable .tar.gz ({error}); delete it and run the command again") from None
    finally:
        shutil.rmtree(folder, ignore_errors=True)
