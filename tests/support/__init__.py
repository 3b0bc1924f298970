"""What several rooms of tests share: small models, stored runs, loopback helpers."""
