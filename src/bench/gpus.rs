//! What GPUs can do, by name.

use std::process::Command;

/// Names as `nvidia-smi` tells them, the more special ones first, and their dense bf16 rate with fp32 sums in TFLOP/s, as NVIDIA's
/// data sheets give it (without sparsity).
const KNOWN: [(&str, f64); 14] = [
    ("B200", 2250.0),
    ("H200", 989.0),
    ("GH200", 989.0),
    ("H100 PCIe", 756.0),
    ("H100 NVL", 835.0),
    ("H100", 989.0),
    ("A100", 312.0),
    ("L40S", 362.0),
    ("L40", 181.0),
    ("L4", 121.0),
    ("A10", 125.0),
    ("RTX 4090", 165.2),
    ("RTX 3090", 71.0),
    ("RTX A6000", 154.8),
];

/// The name of a GPU and its bf16 rate in FLOP/s, if both are known.
pub(super) fn known(index: usize) -> Option<(String, f64)> {
    let number = index.to_string();
    let output = Command::new("nvidia-smi")
        .args(["--query-gpu=name", "--format=csv,noheader", "-i", &number])
        .output();
    let name = String::from_utf8(output.ok()?.stdout).ok()?.trim().to_owned();
    peak(&name).map(|flops| (name, flops))
}

fn peak(name: &str) -> Option<f64> {
    // Whole words: an L40 is no L4, and an A100 no A10.
    let words: Vec<&str> = name.split([' ', '-']).collect();
    let is_it = |known: &str| {
        let known: Vec<&str> = known.split(' ').collect();
        words.windows(known.len()).any(|part| part == known)
    };
    KNOWN.iter().find(|(known, _)| is_it(known)).map(|(_, tflops)| tflops * 1e12)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_gpu_is_known_by_whole_words() {
        for (name, tflops) in [
            ("NVIDIA H100 80GB HBM3", Some(989.0)),
            ("NVIDIA H100 PCIe", Some(756.0)),
            ("NVIDIA A100-SXM4-80GB", Some(312.0)),
            ("NVIDIA L40S", Some(362.0)),
            ("NVIDIA A10G", None),
            ("NVIDIA GeForce RTX 4090", Some(165.2)),
            ("", None),
        ] {
            assert_eq!(peak(name), tflops.map(|tflops| tflops * 1e12), "{name}");
        }
    }
}
