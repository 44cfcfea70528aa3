//! What the optimiser is told.

use serde::{Deserialize, Serialize};

use crate::{Error, Result};

/// Which optimiser makes a step of a gradient, and what it is set to.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum OptimizerConfig {
    /// AdamW for all parameters.
    AdamW(AdamWConfig),
    /// Muon for the matrices of blocks, AdamW for the rest.
    Muon(MuonConfig),
}

impl Default for OptimizerConfig {
    fn default() -> Self {
        Self::AdamW(AdamWConfig::default())
    }
}

impl OptimizerConfig {
    /// The settings of what AdamW does: everything, or the rest.
    pub(crate) fn adamw(&self) -> &AdamWConfig {
        match self {
            Self::AdamW(adamw) => adamw,
            Self::Muon(muon) => &muon.adamw,
        }
    }

    /// # Errors
    /// [`Error::Setting`] names the first field out of range.
    pub(crate) fn validate(&self) -> Result<()> {
        self.adamw().validate()?;
        match self {
            Self::Muon(MuonConfig { momentum, .. }) if !(0.0..1.0).contains(momentum) => {
                Err(Error::Setting { field: "momentum", value: *momentum, must: "at least 0 and below 1" })
            }
            _ => Ok(()),
        }
    }
}

/// What Muon is set to. It shares the weight decay, the clip and the learning rate of the AdamW beside it.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct MuonConfig {
    /// Decay of the momentum, in `[0, 1)`.
    pub momentum: f64,
    /// For the embedding, the output projection, norms and biases.
    pub adamw: AdamWConfig,
}

impl Default for MuonConfig {
    /// Momentum 0.95.
    fn default() -> Self {
        Self { momentum: 0.95, adamw: AdamWConfig::default() }
    }
}

/// What AdamW is set to, besides the learning rate of a step.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct AdamWConfig {
    /// Decay of the first and of the second moment, in `[0, 1)`.
    pub betas: (f64, f64),
    /// Added to the root of the second moment; positive.
    pub eps: f64,
    /// Decoupled weight decay, for matrices only (the embedding among them): the one-dimensional weights of
    /// norms are scales, and decaying them to zero would be no regularisation.
    pub weight_decay: f64,
    /// Largest L2 norm of the gradient of all parameters; a longer one is scaled down to it. `None`: never.
    pub max_grad_norm: Option<f64>,
}

impl Default for AdamWConfig {
    /// As is usual for language models: betas 0.9 and 0.95, eps 1e-8, weight decay 0.1, norm clipped to 1.
    fn default() -> Self {
        Self { betas: (0.9, 0.95), eps: 1e-8, weight_decay: 0.1, max_grad_norm: Some(1.0) }
    }
}

impl AdamWConfig {
    /// # Errors
    /// [`Error::Setting`] names the first field out of range.
    pub(crate) fn validate(&self) -> Result<()> {
        let in_range = |field, value: f64, fits: bool, must| match fits {
            true => Ok(()),
            false => Err(Error::Setting { field, value, must }),
        };
        for beta in [self.betas.0, self.betas.1] {
            in_range("betas", beta, (0.0..1.0).contains(&beta), "at least 0 and below 1")?;
        }
        in_range("eps", self.eps, self.eps.is_finite() && self.eps > 0.0, "positive and finite")?;
        let decay = self.weight_decay;
        in_range("weight_decay", decay, decay.is_finite() && decay >= 0.0, "at least 0 and finite")?;
        let norm = self.max_grad_norm.unwrap_or(1.0);
        in_range("max_grad_norm", norm, norm > 0.0, "positive")
    }
}
