"""Causal language models that think emotion, cause, intent, reply (Table 2's rows "+ CoT", Sec. A.1)."""
