"""Annotation: reasons and intents, by gold labels, weak supervision, trained annotators or an LLM."""
