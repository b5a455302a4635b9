"""The paper's mathematics in torch: tensors in, tensors out; no batch, no data, no text."""
