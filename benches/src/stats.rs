//! Medians of alternating runs.

/// The `q` quantile (0 to 1) of some samples; 0 of none.
pub fn quantile(samples: &[f64], q: f64) -> f64 {
    let mut sorted = samples.to_vec();
    sorted.sort_by(f64::total_cmp);
    let last = sorted.len().saturating_sub(1);
    sorted.get((last as f64 * q).round() as usize).copied().unwrap_or(0.0)
}

/// The median of some samples.
pub fn median(samples: &[f64]) -> f64 {
    quantile(samples, 0.5)
}

/// What was measured in pairs: ours and the baseline, one right after the other.
#[derive(Clone, Debug, Default)]
pub struct Pairs {
    ours: Vec<f64>,
    baseline: Vec<f64>,
}

impl Pairs {
    /// One more pair.
    pub fn push(&mut self, ours: f64, baseline: f64) {
        self.ours.push(ours);
        self.baseline.push(baseline);
    }

    /// The median of ours.
    pub fn ours(&self) -> f64 {
        median(&self.ours)
    }

    /// The median of the baseline.
    pub fn baseline(&self) -> f64 {
        median(&self.baseline)
    }

    /// The median of the pairs' ratios, ours by the baseline.
    pub fn ratio(&self) -> f64 {
        let ratios: Vec<f64> = self.ours.iter().zip(&self.baseline).map(|(ours, baseline)| ours / baseline).collect();
        median(&ratios)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn quantiles_of_few() {
        assert_eq!(median(&[]), 0.0);
        assert_eq!(median(&[3.0, 1.0, 2.0]), 2.0);
        assert_eq!(quantile(&[4.0, 1.0, 2.0, 3.0, 5.0], 1.0), 5.0);
    }

    #[test]
    fn a_ratio_is_taken_pair_by_pair() {
        let mut pairs = Pairs::default();
        // The machine became ten times slower between the pairs; the ratio did not change.
        pairs.push(3.0, 2.0);
        pairs.push(30.0, 20.0);
        pairs.push(30.0, 20.0);
        assert_eq!(pairs.ratio(), 1.5);
    }
}
