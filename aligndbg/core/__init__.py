"""The nouns and what every stage needs: knows numpy only."""
