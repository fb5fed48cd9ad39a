"""What a study found, shown: its page, figures, tables and what the terminal prints, all from its document."""
