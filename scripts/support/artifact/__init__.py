"""Build one artifact of one commit: settings -> source -> lock -> place -> image -> manifest -> store."""
