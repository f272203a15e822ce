"""Access to a Keras model: its weights, its loss, the calls of its layers, and its state."""
