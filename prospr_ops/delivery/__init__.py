"""What leaves: stock models, files for inference, smaller models."""
