"""The loops that run text through a model, and the only place that hooks one."""
