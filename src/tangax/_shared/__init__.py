"""What every wing uses: trees, axes, memory, derivatives, settings of machines."""
