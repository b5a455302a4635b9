"""JupyterLab on a free port of this machine, and a notebook that a real browser runs in it. For tests and screenshots.

python tests/lab.py FOLDER [NOTEBOOK ...]      runs notebooks (all) in a copy, writes FOLDER/<notebook>-<part>.png
"""

from __future__ import annotations

import argparse
import json
import os
import secrets
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
BROWSERS = ("chromium", "chromium-browser", "google-chrome")
FLAGS = ["--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage"]
SETTINGS = {
    "notebook-extension/tracker": {"windowingMode": "none"},  # else cells out of sight are no part of the page
    "apputils-extension/notification": {"fetchNews": "false", "checkForUpdates": False},
    "docmanager-extension/plugin": {"autosave": False},  # two savings at once ask which one is meant
}
PATIENCE = 900  # seconds, for a whole notebook on a busy machine


def browser_path() -> str | None:
    """The first browser that is installed."""
    return next((found for name in BROWSERS if (found := shutil.which(name))), None)


def copied(target: Path, names: Sequence[str] = ()) -> Path:
    """A folder that looks like the project to a notebook: its notebooks, papers and tests, and empty results."""
    (target / "notebooks").mkdir(parents=True)
    for path in (ROOT / "notebooks").glob("*.ipynb"):
        if not names or path.stem in names:
            shutil.copy(path, target / "notebooks")
    for name in ("papers", "rd", "tests"):
        (target / name).symlink_to(ROOT / name)
    (target / "results" / "mini").mkdir(parents=True)
    return target


@contextmanager
def lab(root: Path, prepare: Sequence[str] = ()) -> Iterator[tuple[str, str]]:
    """Address and token of a JupyterLab over `root`, which is ended after. Kernels start in root, as under `make lab`.

    prepare: lines of IPython that each kernel runs first. Nothing of the user's own settings is read or written.
    """
    own = root / ".lab"
    for name, values in SETTINGS.items():
        file = own / "settings" / "@jupyterlab" / f"{name}.jupyterlab-settings"
        file.parent.mkdir(parents=True)
        file.write_text(json.dumps(values))
    profile = own / "ipython" / "profile_default"
    profile.mkdir(parents=True)
    lines = [f"%cd -q {root}", *prepare]
    (profile / "ipython_kernel_config.py").write_text(f"c.InteractiveShellApp.exec_lines = {lines!r}\n")
    folders = {"JUPYTER_CONFIG_DIR": "config", "JUPYTER_DATA_DIR": "data", "JUPYTER_RUNTIME_DIR": "runtime"}
    folders |= {"JUPYTERLAB_SETTINGS_DIR": "settings", "JUPYTERLAB_WORKSPACES_DIR": "work", "IPYTHONDIR": "ipython"}
    environment = {**os.environ, **{name: str(own / folder) for name, folder in folders.items()}}
    environment |= {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1", "TQDM_DISABLE": "1"}
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    token = secrets.token_hex(16)
    command = [sys.executable, "-m", "jupyterlab", "--no-browser", f"--ServerApp.root_dir={root}"]
    command += ["--ServerApp.ip=127.0.0.1", f"--ServerApp.port={port}", "--ServerApp.port_retries=0"]
    command += [f"--IdentityProvider.token={token}", *(["--allow-root"] if os.getuid() == 0 else [])]
    with (own / "log").open("w") as log:
        server = subprocess.Popen(command, cwd=root, env=environment, stdout=log, stderr=log, start_new_session=True)
        try:
            address = f"http://127.0.0.1:{port}", token
            _wait(server, address, own / "log")
            yield address
        finally:
            server.terminate()  # the server ends its kernels
            try:
                server.wait(20)
            except subprocess.TimeoutExpired:
                os.killpg(server.pid, signal.SIGKILL)
                server.wait()


def _wait(server: subprocess.Popen, address: tuple[str, str], log: Path) -> None:
    for _ in range(PATIENCE):
        if server.poll() is not None:
            break
        try:
            _ask(address, "status")
            return
        except OSError:
            time.sleep(1)
    raise RuntimeError(f"JupyterLab did not start:\n{log.read_text()[-2000:]}")


def _ask(address: tuple[str, str], path: str, question: dict | None = None, method: str | None = None) -> Any:
    """The server's answer at /api/`path`: to a GET, or to the POST of a question."""
    head = {"Authorization": f"token {address[1]}"}
    request = urllib.request.Request(f"{address[0]}/api/{path}", headers=head, method=method)
    if question is not None:
        request.data = json.dumps(question).encode()
        request.add_header("Content-Type", "application/json")
    with urllib.request.build_opener(urllib.request.ProxyHandler({})).open(request, timeout=PATIENCE) as answer:
        return json.loads(answer.read() or b"null")


def run_all(page: Any, address: tuple[str, str], notebook: str, shown: Callable[[], bool] = lambda: True) -> None:
    """Open notebooks/<notebook>.ipynb, Run All Cells, wait until the last is done or none runs any more, save.

    shown: whether what is looked for is on the page then; if not, all is done anew with another kernel.
    Raises RuntimeError, with what the page shows, where the cells never ran or were never saved.
    """
    path = f"notebooks/{notebook}.ipynb"
    question = {"path": path, "name": notebook, "type": "notebook", "kernel": {"name": "python3"}}
    prompts = "[...document.querySelectorAll('.jp-CodeCell .jp-InputPrompt')].map(e => e.textContent)"
    idle = ".jp-Notebook-ExecutionIndicator[data-status='idle']"

    def shows(signs: str) -> bool:
        return page.evaluate(f"{prompts}.some(e => /[{signs}]/.test(e))")

    def saved() -> bool:
        cells = _ask(address, f"contents/{path}")["content"]["cells"]
        return any(cell["execution_count"] for cell in cells if cell["cell_type"] == "code")

    plain = {"type": "notebook", "content": _ask(address, f"contents/{path}")["content"]}
    for _ in range(5):  # run without a kernel, cells show [*] and then [ ] again
        _ask(address, f"contents/{path}", plain, "PUT")
        for session in _ask(address, "sessions"):
            if session["path"] == path:
                _ask(address, f"sessions/{session['id']}", method="DELETE")
        _ask(address, "sessions", question)  # the kernel is there before the page, which then takes it
        page.goto(f"{address[0]}/doc/tree/{path}?token={address[1]}", timeout=1000 * PATIENCE)
        page.wait_for_selector(idle, timeout=1000 * PATIENCE)
        _chosen(page, "Run", "runmenu:run-all", lambda: shows("*0-9"))
        page.wait_for_function(f"!{prompts}.some(e => e.includes('*'))", timeout=1000 * PATIENCE)
        if shows("0-9"):
            page.wait_for_selector(idle, timeout=1000 * PATIENCE)
            if _chosen(page, "File", "docmanager:save", saved) and until(page, lambda: None, shown, tries=1):
                return
    raise RuntimeError(
        f"no cell of {path} ran and was saved; the page shows\n{page.locator('body').inner_text()[:2000]}"
    )


def _chosen(page: Any, menu: str, command: str, done: Callable[[], bool], tries: int = 3, seconds: int = 20) -> bool:
    """Choose from a menu until it is done, if ever."""

    def choose() -> None:
        page.click(f".lm-MenuBar-item:has-text('{menu}')", timeout=20_000)
        page.click(f".lm-Menu-item[data-command='{command}']", timeout=20_000)

    return until(page, choose, done, tries, seconds)


def until(page: Any, act: Callable[[], None], done: Callable[[], bool], tries: int = 5, seconds: int = 20) -> bool:
    """Act again until it is done, if ever: what comes before the page listens, or meets another menu, is lost."""
    for _ in range(tries):
        try:
            act()
        except Exception as error:
            if type(error).__name__ != "TimeoutError":  # playwright's own: not imported where there is no browser
                raise
            page.keyboard.press("Escape")
        for _ in range(seconds):
            if done():
                return True
            page.wait_for_timeout(1000)
    return False


def slider(page: Any, label: str) -> Any:
    """The handle of the ipywidgets slider with this label; it takes the keyboard."""
    return page.locator(".widget-slider", has=page.locator(f"label:text-is('{label}')")).locator(".noUi-handle")


@contextmanager
def window(width: int = 1280, height: int = 1000) -> Iterator[Any]:
    """A page of a headless browser."""
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=browser_path(), args=FLAGS)
        try:
            page = browser.new_page(viewport={"width": width, "height": height})
            page.set_default_timeout(120_000)
            # a busy machine's JupyterLab may ask for a kernel at any moment: the question is answered as it is put
            page.add_locator_handler(
                page.locator("dialog.jp-Dialog"), lambda asked: asked.locator(".jp-mod-accept").first.click()
            )
            yield page
        finally:
            browser.close()


def shoot(page: Any, folder: Path, name: str, height: int = 4000) -> list[Path]:
    """The whole notebook as pictures of at most `height` pixels each."""
    page.set_viewport_size({"width": 1180, "height": height})
    page.wait_for_timeout(3000)
    outer = page.locator(".jp-WindowedPanel-outer").first
    end = "[...e.querySelectorAll('.jp-Cell')].at(-1).getBoundingClientRect().bottom - e.getBoundingClientRect().top"
    whole, shown = outer.evaluate(f"e => {{ e.scrollTo(0, 0); return [{end}, e.clientHeight]; }}")
    found = []
    for part, top in enumerate(range(0, int(whole), shown), start=1):
        outer.evaluate("(e, top) => e.scrollTo(0, top)", top)
        page.wait_for_timeout(500)
        found.append(folder / f"{name}-{part}.png")
        outer.screenshot(path=found[-1])
    return found


def main() -> None:
    """Screenshots of notebooks as they look when all cells have run, with the trained mini runs where there are."""
    parser = argparse.ArgumentParser(description=main.__doc__)
    parser.add_argument("folder", type=Path)
    parser.add_argument("notebooks", nargs="*")
    given = parser.parse_args()
    given.folder.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory() as place:
        root = copied(Path(place) / "rd-copy", given.notebooks)
        for path in (ROOT / "results" / "mini").iterdir():
            if path.is_dir() and path.name not in ("figures", "notebooks"):
                (root / "results" / "mini" / path.name).symlink_to(path)
        with lab(root) as address:
            for path in sorted((root / "notebooks").glob("*.ipynb")):
                with window() as page:
                    run_all(page, address, path.stem)
                    print(*shoot(page, given.folder, path.stem), sep="\n", flush=True)


if __name__ == "__main__":
    main()
