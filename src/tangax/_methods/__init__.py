"""How a kernel is computed: by factors, or by the two plain methods."""
