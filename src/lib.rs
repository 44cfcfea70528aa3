//! Brigade: strangers train one language model together, with nothing between them but object storage.

pub mod data;
