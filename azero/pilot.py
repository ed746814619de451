"""The success rate of a problem of which a pilot of n solutions was drawn first, and the rest if the pilot was mixed.

All n right or all n wrong: nothing more is drawn. Else the other G - n are (`rollout.pilot`).
"""

from __future__ import annotations

from math import comb


def unbiased_rate(right: int, drawn: int, pilot: int = 0) -> float:
    """Estimate p without bias from `right` of `drawn` solutions, in [0, 1]; with a pilot of n, `drawn` is n or G.

    Without a pilot it is the share of right ones, right / drawn. With one that share is biased by
    (1 - n/G) p q (p^(n-1) - q^(n-1)), q = 1 - p: the rest is only drawn where the pilot was no extreme. The pilot's own
    share x/n is not; its mean given all that was drawn is the unbiased estimate of least variance (Girshick, Mosteller
    and Savage, Annals of Mathematical Statistics 17, 1946; Blackwell, ibid. 18, 1947). Stopped, that is 0 or 1; mixed,
    with s of G right, the mean of x/n over a hypergeometric x that is neither 0 nor n:

        sum x/n C(n,x) C(G-n,s-x)   C(G-1,s-1) - C(G-n,s-n)
        ------------------------- = ---------------------------------    sums over x = 1 .. n-1
          sum C(n,x) C(G-n,s-x)     C(G,s) - C(G-n,s) - C(G-n,s-n)

    It is exact in integers up to the last division, lies in [1/n, 1 - 1/n] where mixed, and is 1/2 there for n = 2.
    """
    if not pilot or drawn == pilot:
        return right / drawn
    rest = drawn - pilot
    all_right = comb(rest, right - pilot) if right >= pilot else 0
    return (comb(drawn - 1, right - 1) - all_right) / (comb(drawn, right) - comb(rest, right) - all_right)
