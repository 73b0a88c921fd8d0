"""``vqr1 export``: a trained policy as a folder that transformers and vLLM load without vqr1."""
