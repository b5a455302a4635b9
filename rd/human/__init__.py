"""Human A/B (Sec. 4.4, App. A.2, D): blinded sheets, ratings, agreement, judge, a rater for notebooks."""
