"""NUS-WIDE, 925 seen and 81 novel labels: from the official files to shards, a taxonomy and the split."""
