"""The folder of the local `evaluate` metric; its script is loaded by path (`rd.metrics.load_metric`)."""
