"""The trainable skeleton that puts any mixer on equal terms: the same embedding, blocks, head and trainer for all."""
