"""What a killed run goes on from, and trained repetitions that other runs use."""
