"""Models: ReflectDiffu's parts and the BERT annotators."""
