"""What users point at objects with: checked, read from files, turned into tensors."""
