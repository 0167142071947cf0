"""Operations, one a file: what it computes, its three forms, and which of them runs where."""
