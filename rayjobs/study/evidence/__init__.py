"""What a reader needs in order to believe a study's words: what luck added, what was spent, what was checked."""
