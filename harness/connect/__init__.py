"""Other people's worlds: language models for and from lm_eval, and checkpoint folders of transformers."""
