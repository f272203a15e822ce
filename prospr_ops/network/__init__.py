"""What we ask of a Keras model: its weights, its loss, its layers' calls, and to be put back."""
