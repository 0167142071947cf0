"""What encoders, decoders and heads are built of: blocks, embedding, norms, conditions, draws from predictions."""
