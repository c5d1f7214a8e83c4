"""The study of `lora_head`: calibration, prior scale, exact small forms, peers, costs."""
