"""The frame of the report: style and the sentences that say what the numbers mean."""

PAGE = """<!doctype html>
<html lang="en"><head><meta charset="utf-8"><meta name="viewport" content="width=device-width">
<title>{title}</title>
<style>
  body {{ margin: 0; background: #f6f7f8; color: #2b2f36; font: 15px/1.55 system-ui, "Segoe UI", sans-serif; }}
  main {{ max-width: 1180px; margin: 0 auto; padding: 40px 28px 80px; }}
  h1 {{ font-size: 28px; margin: 0; letter-spacing: -.01em; }}
  h2 {{ font-size: 18px; margin: 44px 0 6px; }}
  p {{ margin: 4px 0 12px; max-width: 78ch; color: #4b5563; }}
  .cards {{ display: flex; flex-wrap: wrap; gap: 16px; margin: 24px 0 8px; }}
  .card {{ background: #fff; border: 1px solid #e3e5e8; border-radius: 10px; padding: 16px 22px; flex: 1 1 320px; }}
  .card b {{ display: block; font-size: 40px; line-height: 1.1; color: #d1603d; letter-spacing: -.02em; }}
  .card span {{ display: block; font-weight: 600; }} .card small {{ color: #6b7280; }}
  figure {{ margin: 18px 0; padding: 18px 20px 12px; }}
  figure, .scroll {{ background: #fff; border: 1px solid #e3e5e8; border-radius: 10px; }}
  figure img {{ display: block; max-width: 100%; margin: 0 auto; }}
  figcaption {{ color: #6b7280; font-size: 13px; margin-top: 8px; }}
  .scroll {{ overflow-x: auto; }}
  table {{ border-collapse: collapse; width: 100%; font-size: 13px; font-variant-numeric: tabular-nums; }}
  th {{ text-align: left; font-weight: 600; color: #6b7280; border-bottom: 1px solid #e3e5e8; }}
  th, td {{ padding: 6px 12px; white-space: nowrap; }}
  tbody tr:nth-child(even) {{ background: #fafbfb; }}
  td i {{ display: inline-block; width: 9px; height: 9px; border-radius: 2px; margin-right: 7px; }}
  code, pre {{ font: 12px ui-monospace, monospace; }} td code {{ white-space: pre-wrap; word-break: break-all; }}
  .warning {{ color: #8a3b12; background: #fdf0e7; border-radius: 8px; padding: 8px 14px; }}
  details {{ margin: 10px 0; }} summary {{ cursor: pointer; color: #6b7280; }}
</style></head><body><main>
<h1>{title}</h1><p>{subtitle}</p>{warning}
<div class="cards">{cards}</div>
{plots}
<h2>Numbers</h2>
<p>tau: accepted draft tokens per round, without the token the verifier adds. exact: the expectation of tau on the same
trees, from the verifier's law, free of its dice. bound: the sum of the target's path probabilities, which no lossless
verifier can pass on a deterministic tree. tokens/s counts what came after the first token, by the time after it;
speed-ups compare it on answers to the same questions. Brackets: {level} bootstrap intervals over questions, the same
resampled questions for all arms of a task. Identical answers have plain decoding's own tokens, as greedy and coupled
ones should: what then differs between the arms of a speed-up is time alone, and the interval is as wide (width) as that
makes it. Coupled trees have seen the noise of the target's tokens: no law gives an exact tau or a bound for them.</p>
{results}
<h2>Where the time goes</h2>
<p>Shares of decoding time, that is after the first token. Rest is everything outside the three phases. Peers that run
in one call do not tell.</p>
{times}
<h2>Every verifier on the recorded trees</h2>
<p>What each verifier would have accepted per round on the very trees each arm drafted. A verifier stands here when it
applies to every one of the trees.</p>
{exact}
<h2>Arm against arm</h2>
<p>On the same questions; an interval around 0 (difference) or 1 (ratio) decides nothing.</p>
{comparisons}
<h2>Output against plain decoding</h2>
<p>At temperature 0 the text must be the plain target's, and that of a coupled arm at any temperature. Where a token
differs, the gap is the difference of the two tokens' logits after the same text, above temperature 0 of their perturbed
logits z + T g: near 0 it is a tie that half-precision kernels break differently. Not compared: coupled answers beside
plain ones of an older version, which were drawn in another way.</p>
{equality}
<h2>Capped, degenerate and stalled answers</h2>
<p>Capped: did not end before the limit. Degenerate: runs in circles (fewer than half of the 4-grams in the second half
of the answer are distinct), which is easy to draft and flatters tau. "Without" leaves both kinds out, in both arms of a
speed-up. Stalled answers, whose passes took over three times as long as the arm's fastest, stay in: several of them
mean that the machine was busy and the speeds are not to be trusted.</p>
{flagged}
<h2>Self-check</h2>
{self_check}
<h2>Conditions</h2>
{conditions}
</main></body></html>
"""
