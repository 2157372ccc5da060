"""What models cost: parameters, multiply–accumulates, time and memory."""
