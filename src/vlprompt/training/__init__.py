"""One loop for all methods: images, stages, checkpoints, processes."""
