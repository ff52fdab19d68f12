"""Makes what a job needs of a configuration: task, pretrained networks, optimiser, compiled steps."""
