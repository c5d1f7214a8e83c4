"""Do our chains and the published ones of posteriordb have the same posterior?"""
