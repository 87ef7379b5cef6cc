"""What a model is, as metadata.

What the operator declared (``spec``), where it comes from (``sources``), what its folder says (``card``, made by
``folder``), what a worker is told to load (``order``). Nothing here can embed or imports torch; only a worker that has
loaded a model can embed.
"""
