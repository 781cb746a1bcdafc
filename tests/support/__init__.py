"""What tests share: oracles, tables of cases, arrays. No test imports a test."""
