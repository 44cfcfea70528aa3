//! The inner learning rate, step by step.

use serde::{Deserialize, Serialize};

use crate::{Error, Training};

/// How the learning rate goes on after its linear warm-up.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Schedule {
    /// Half a cosine from the peak down to the minimum at `decay_steps` (arXiv 1608.03983); 0 holds the peak.
    #[default]
    Cosine,
    /// Warm-up, stable, decay (arXiv 2404.06395): the peak for `stable_steps`, then down to the minimum at `decay_steps`.
    Wsd,
    /// The peak for ever.
    Constant,
}

/// The shape of the decay of [`Schedule::Wsd`], as `transformers` names them.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub enum DecayType {
    /// 1 − p, where p is the part of the decay that has passed.
    #[default]
    #[serde(rename = "linear")]
    Linear,
    /// 1 − √p (arXiv 2405.18392).
    #[serde(rename = "1-sqrt")]
    OneMinusSqrt,
}

/// The end of a run, over whatever the schedule says: linearly from the rate at `start` to the minimum.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Anneal {
    /// The inner step of the run at which it begins; the warm-up must be over.
    pub start: u64,
    /// Inner steps until the minimum is reached.
    pub steps: u64,
}

impl Training {
    /// The inner learning rate at inner step `step` of the run (window · H + h).
    pub fn learning_rate_at(&self, step: u64) -> f64 {
        match self.anneal {
            Some(Anneal { start, steps }) if step > start => {
                let progress = ((step - start) as f64 / steps as f64).min(1.0);
                self.above_minimum(self.scheduled_rate(start), 1.0 - progress)
            }
            _ => self.scheduled_rate(step),
        }
    }

    fn scheduled_rate(&self, step: u64) -> f64 {
        if step < self.warmup_steps {
            return self.learning_rate * (step + 1) as f64 / self.warmup_steps as f64;
        }
        let begin = match self.schedule {
            Schedule::Cosine => self.warmup_steps,
            Schedule::Wsd => self.warmup_steps.saturating_add(self.stable_steps),
            Schedule::Constant => return self.learning_rate,
        };
        if self.decay_steps <= begin || step < begin {
            return self.learning_rate;
        }
        let progress = ((step - begin) as f64 / (self.decay_steps - begin) as f64).min(1.0);
        let left = match (self.schedule, self.decay_type) {
            (Schedule::Wsd, DecayType::Linear) => 1.0 - progress,
            (Schedule::Wsd, DecayType::OneMinusSqrt) => 1.0 - progress.sqrt(),
            _ => 0.5 * (1.0 + (std::f64::consts::PI * progress).cos()),
        };
        self.above_minimum(self.learning_rate, left)
    }

    /// The rate of which the share `left` of the way from the minimum up to `high` is left.
    fn above_minimum(&self, high: f64, left: f64) -> f64 {
        self.min_learning_rate + (high - self.min_learning_rate) * left
    }

    /// Refuses a schedule that says nothing, or settings that the schedule would not look at.
    pub(crate) fn validate_schedule(&self) -> Result<(), Error> {
        let refuse = |field: &str, reason: String| Err(Error::manifest(format!("training.{field}"), reason));
        let stable_end = self.warmup_steps.checked_add(self.stable_steps);
        if self.schedule == Schedule::Wsd && stable_end.is_none_or(|end| self.decay_steps <= end) {
            let (decay, warmup, stable) = (self.decay_steps, self.warmup_steps, self.stable_steps);
            let sum = format!("warmup_steps + stable_steps = {warmup} + {stable}");
            return refuse("decay_steps", format!("is {decay}, must be above {sum} with schedule `wsd`"));
        }
        if self.schedule == Schedule::Constant && self.decay_steps > 0 {
            let reason = format!("is {}, must be 0 with schedule `constant`", self.decay_steps);
            return refuse("decay_steps", reason);
        }
        if self.schedule != Schedule::Wsd && self.stable_steps > 0 {
            let reason = format!("is {}, must be 0 unless schedule is `wsd`", self.stable_steps);
            return refuse("stable_steps", reason);
        }
        if self.schedule != Schedule::Wsd && self.decay_type != DecayType::default() {
            return refuse("decay_type", "is `1-sqrt`, must be left out unless schedule is `wsd`".into());
        }
        match self.anneal {
            Some(Anneal { steps: 0, .. }) => refuse("anneal.steps", "is 0, must be at least 1".into()),
            Some(Anneal { start, .. }) if start < self.warmup_steps => {
                let reason = format!("is {start}, must be at least warmup_steps = {}", self.warmup_steps);
                refuse("anneal.start", reason)
            }
            _ => Ok(()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fixtures;

    /// Peak 1, minimum 0.1, ten steps of warm-up.
    fn training() -> Training {
        Training { learning_rate: 1.0, min_learning_rate: 0.1, warmup_steps: 10, ..Training::default() }
    }

    fn cosine() -> Training {
        Training { decay_steps: 110, ..training() }
    }

    fn wsd(decay_type: DecayType) -> Training {
        let schedule = Schedule::Wsd;
        Training { schedule, stable_steps: 90, decay_steps: 200, decay_type, ..training() }
    }

    fn constant() -> Training {
        Training { schedule: Schedule::Constant, ..training() }
    }

    fn annealed(training: Training, start: u64, steps: u64) -> Training {
        Training { anneal: Some(Anneal { start, steps }), ..training }
    }

    fn validate(training: Training) -> Result<(), Error> {
        let mut manifest = fixtures::manifest(&[1]);
        manifest.training = Training { sequence_length: 64, ..training };
        manifest.validate()
    }

    #[test]
    fn rates_are_those_of_the_formulas() {
        let warm = [(0, 0.1), (4, 0.5), (9, 1.0), (10, 1.0)];
        type Rates = &'static [(u64, f64)];
        let table: [(&str, Training, Rates); 8] = [
            ("cosine", cosine(), &[(35, 0.868_198_051_533_946), (60, 0.55), (110, 0.1), (u64::MAX, 0.1)]),
            ("no end", training(), &[(60, 1.0), (u64::MAX, 1.0)]),
            ("constant", constant(), &[(60, 1.0), (u64::MAX, 1.0)]),
            (
                "linear",
                wsd(DecayType::Linear),
                &[(99, 1.0), (100, 1.0), (101, 0.991), (125, 0.775), (150, 0.55), (200, 0.1), (201, 0.1)],
            ),
            (
                "1-sqrt",
                wsd(DecayType::OneMinusSqrt),
                &[(100, 1.0), (101, 0.91), (104, 0.82), (125, 0.55), (181, 0.19), (200, 0.1), (9999, 0.1)],
            ),
            // From the middle of the cosine, at 0.55.
            (
                "cosine, annealed",
                annealed(cosine(), 60, 10),
                &[
                    (35, 0.868_198_051_533_946),
                    (60, 0.55),
                    (61, 0.505),
                    (65, 0.325),
                    (70, 0.1),
                    (u64::MAX, 0.1),
                ],
            ),
            (
                "constant, annealed",
                annealed(constant(), 1000, 9),
                &[(1000, 1.0), (1001, 0.9), (1008, 0.2), (1009, 0.1), (1010, 0.1)],
            ),
            // Where the minimum was reached long before, there is nothing to anneal.
            (
                "late",
                annealed(wsd(DecayType::Linear), 500, 5),
                &[(200, 0.1), (500, 0.1), (503, 0.1), (505, 0.1)],
            ),
        ];
        for (name, training, rates) in table {
            validate(training.clone()).unwrap();
            for (step, expected) in warm.iter().chain(rates) {
                let rate = training.learning_rate_at(*step);
                assert!((rate - expected).abs() < 1e-12, "{name} at {step}: {rate} for {expected}");
            }
        }
    }

    #[test]
    fn a_schedule_that_is_none_is_refused_by_its_field() {
        let wsd = || wsd(DecayType::Linear);
        let table = [
            ("training.decay_steps", Training { decay_steps: 100, ..wsd() }),
            ("training.decay_steps", Training { decay_steps: 0, ..wsd() }),
            ("training.decay_steps", Training { stable_steps: u64::MAX, decay_steps: u64::MAX, ..wsd() }),
            ("training.decay_steps", Training { decay_steps: 1, ..constant() }),
            ("training.stable_steps", Training { stable_steps: 1, ..cosine() }),
            ("training.stable_steps", Training { stable_steps: 1, ..constant() }),
            ("training.decay_type", Training { decay_type: DecayType::OneMinusSqrt, ..cosine() }),
            ("training.anneal.steps", annealed(cosine(), 60, 0)),
            ("training.anneal.start", annealed(cosine(), 9, 10)),
            ("training.min_learning_rate", Training { min_learning_rate: 1.1, ..constant() }),
        ];
        for (named, training) in table {
            match validate(training.clone()) {
                Err(Error::Manifest { field, .. }) => assert_eq!(field, named),
                other => panic!("{other:?} for {training:?}"),
            }
            // Whatever is refused has a rate none the less: nothing divides by zero or runs over.
            for step in [0, 9, 10, 60, u64::MAX] {
                assert!(training.learning_rate_at(step) >= 0.0);
            }
        }
    }

    #[test]
    fn what_is_left_out_is_the_cosine_and_is_not_written() {
        let old = serde_json::to_value(cosine()).unwrap();
        for field in ["schedule", "stable_steps", "decay_type", "anneal", "optimizer"] {
            assert!(old.get(field).is_none(), "{field}: the manifests of before stay as they are");
        }
        assert_eq!(serde_json::from_value::<Training>(old).unwrap(), cosine());
        let new = annealed(wsd(DecayType::OneMinusSqrt), 150, 7);
        let written = serde_json::to_value(&new).unwrap();
        assert_eq!((&written["schedule"], &written["decay_type"]), (&"wsd".into(), &"1-sqrt".into()));
        assert_eq!(serde_json::from_value::<Training>(written).unwrap(), new);
        for nonsense in [r#"{"schedule":"step"}"#, r#"{"anneal":{"start":1}}"#, r#"{"optimizer":"sgd"}"#] {
            assert!(serde_json::from_str::<Training>(nonsense).is_err(), "{nonsense}");
        }
    }
}
