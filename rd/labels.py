"""The 32 emotions, their polarity, the nine response intents, and the paper's Table 1 as printed."""

EMOTIONS = (
    "afraid", "angry", "annoyed", "anticipating", "anxious", "apprehensive", "ashamed", "caring",
    "confident", "content", "devastated", "disappointed", "disgusted", "embarrassed", "excited", "faithful",
    "furious", "grateful", "guilty", "hopeful", "impressed", "jealous", "joyful", "lonely",
    "nostalgic", "prepared", "proud", "sad", "sentimental", "surprised", "terrified", "trusting",
)  # fmt: skip

# Majumder et al. (2020), MIME: 13 positive emotions, the other 19 negative.
POSITIVE = frozenset(
    {
        "caring", "confident", "content", "excited", "faithful", "grateful", "hopeful",
        "impressed", "joyful", "prepared", "proud", "surprised", "trusting",
    }
)  # fmt: skip
NEGATIVE = frozenset(EMOTIONS) - POSITIVE

INTENTS = (
    "questioning", "acknowledging", "consoling", "agreeing", "encouraging",
    "sympathizing", "suggesting", "wishing", "neutral",
)  # fmt: skip

# Tags of the emotion-reason annotator (Sec. 3.1): 0 = <noem>, 1 = <em>.
TAGS = ("noem", "em")

# Table 1 of the paper, row by row, misprints kept (papers/errata.md): it omits annoyed, ashamed, devastated,
# disgusted and furious, puts "faithful" in two rows and prints one row twice.
PRINTED_TABLE_1 = (
    (
        ("surprised", "proud", "impressed", "nostalgic", "trusting", "faithful", "prepared"),
        ("acknowledging", "encouraging", "neutral"),
    ),
    (
        ("excited", "confident", "joyful", "grateful", "content", "caring", "faithful"),
        ("encouraging", "sympathizing", "acknowledging"),
    ),
    (("angry", "disappointed"), ("consoling", "suggesting", "encouraging")),
    (("hopeful", "sentimental"), ("encouraging", "wishing", "consoling")),
    (
        ("anticipating", "lonely", "afraid", "anxious", "guilty", "embarrassed", "sad", "apprehensive", "terrified",
         "jealous"),
        ("consoling", "encouraging", "neutral"),
    ),
    (("hopeful", "sentimental"), ("encouraging", "wishing", "consoling")),
)  # fmt: skip
