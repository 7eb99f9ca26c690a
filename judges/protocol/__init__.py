"""How a verdict is made: prompt, rendering, generation, parsing and voting, in that order.

May import engines, models, rubrics and media; nothing here knows files, Ray or HTTP.
"""
