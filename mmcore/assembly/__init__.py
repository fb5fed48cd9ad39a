"""From a configuration to objects: the only place that asks the registries of methods, encoders and data sets."""
