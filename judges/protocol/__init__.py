"""The judging protocol: plan votes, build and render the prompt, generate a reply, parse it, combine the votes.

Reading order: `vote_loop` (the entry point), `prompts` and `quoting`, `rendering`, `generation`, `parsing` and
`expected_score`, `voting`. May import engines, models, rubrics and media; nothing here knows files, Ray or HTTP.
"""
