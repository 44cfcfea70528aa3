//! libtorch, the device, memory, disk.

use std::path::Path;

use brigade_protocol::Manifest;

use super::{Examination, Patient};
use crate::config::Compute;
use crate::init::Role;
use crate::plan::{self, DeviceKind, Precision, Recompute, Setup};
use crate::run::Run;

/// Token shards that a role keeps on disk, in bytes, at most.
const SHARD_BYTES: u64 = 20 << 30;

pub(super) fn examine(
    found: &mut Examination<'_>,
    patient: &Patient<'_>,
    run: Option<(&Run, Role)>,
    text_bytes: Option<u64>,
) {
    let computes = patient.settings.bucket.is_some() && run.is_none_or(|(_, role)| role != Role::Aggregator);
    let is_cuda = computes && libtorch(found, &patient.settings.compute);
    let Some((run, role)) = run else {
        return found.unknown("memory", "what the run needs is not known");
    };
    memory(found, run.manifest(), patient, role, is_cuda);
    let shards = if role == Role::Aggregator { 0 } else { text_bytes.unwrap_or(0).min(SHARD_BYTES) };
    disk(found, run.manifest(), &patient.settings.state, role, shards);
}

/// Which libtorch there is, and whether it sees the device that the settings want. Returns whether that is a GPU.
#[cfg(feature = "torch")]
fn libtorch(found: &mut Examination<'_>, compute: &Compute) -> bool {
    use brigade_protocol::ModelConfig;

    match brigade_trainer::version() {
        Ok(version) => {
            let cuda = version.cuda.map_or("for CPUs".to_owned(), |cuda| format!("with CUDA {cuda}"));
            found.good("libtorch", format!("{} {cuda}", version.libtorch));
        }
        Err(error) => drop(found.bad("libtorch", error.to_string(), "run `make setup` again")),
    }
    let gpus = brigade_trainer::cuda_devices();
    let model =
        ModelConfig::preset("demo").unwrap_or_else(|| unreachable!("the demo's preset is always there"));
    let is_cuda = crate::roles::model::device_config(&model, compute)
        .map_err(|error| error.to_string())
        .and_then(|config| config.device.is_cuda().map_err(|error| error.to_string()));
    let is_cuda = match is_cuda {
        Ok(is_cuda) => is_cuda,
        Err(said) => {
            found.bad(
                "device",
                said,
                "correct [compute]; a GPU needs a driver, and a build with CUDA (`make setup CUDA=1`)",
            );
            return false;
        }
    };
    let ranks = compute.ranks.unwrap_or(1);
    let names = crate::throughput::gpu_name().unwrap_or_else(|| "GPUs".to_owned());
    match (is_cuda, gpus, driver()) {
        (true, gpus, driver) if gpus >= ranks => {
            let driver = driver.map(|driver| format!(", driver {driver}")).unwrap_or_default();
            found.good("device", format!("{gpus} × {names}{driver}"));
        }
        (true, gpus, _) => {
            let said = format!("compute.ranks is {ranks}, libtorch sees {gpus} GPUs");
            found.bad("device", said, "set compute.ranks to the number of GPUs");
        }
        (false, 0, Some(driver)) => found.warn(
            "device",
            format!("the CPU; the machine has a GPU (driver {driver}) that libtorch does not see"),
            "build with CUDA: `make setup CUDA=1`, then `make run` or `make dist`",
        ),
        (false, ..) => found.good("device", "the CPU"),
    }
    is_cuda
}

#[cfg(not(feature = "torch"))]
fn libtorch(found: &mut Examination<'_>, _compute: &Compute) -> bool {
    let said = "this program was built without libtorch: it neither trains nor scores";
    found.bad("libtorch", said, "build it with `make run`, or use the release with libtorch in it");
    false
}

/// The driver's version, where there is one.
#[cfg(feature = "torch")]
fn driver() -> Option<String> {
    let text = std::fs::read_to_string("/proc/driver/nvidia/version").ok()?;
    let line = text.lines().next()?;
    line.split_whitespace().find(|word| word.starts_with(|c: char| c.is_ascii_digit())).map(str::to_owned)
}

/// What a peer of the run computes, as the planner wants to be told.
pub(super) fn setup(manifest: &Manifest, compute: Option<(&Compute, bool)>) -> Setup {
    let (compute, is_cuda) = compute.map_or((None, false), |(compute, is_cuda)| (Some(compute), is_cuda));
    let ranks = compute.and_then(|compute| compute.ranks).unwrap_or(1).max(1) as u64;
    let batch = u64::from(manifest.training.batch_size).div_ceil(ranks);
    let micro_batch = compute.and_then(|compute| compute.micro_batch).map_or(batch, |size| size as u64);
    let recompute = match compute.and_then(|compute| compute.recompute.as_ref()) {
        Some(crate::config::Recompute::Every(n)) => Recompute::Every(*n as u64),
        Some(crate::config::Recompute::Word(word)) if word == "all" => Recompute::Every(1),
        _ => Recompute::None,
    };
    Setup {
        model: manifest.model.clone(),
        device: if is_cuda { DeviceKind::Cuda } else { DeviceKind::Cpu },
        gpus: ranks,
        precision: if is_cuda { Precision::BFloat16 } else { Precision::Float32 },
        is_widened: false,
        sequence_length: u64::from(manifest.training.sequence_length),
        batch,
        micro_batch: micro_batch.clamp(1, batch),
        recompute,
        offload: compute.and_then(|compute| compute.offload).unwrap_or(false),
    }
}

fn memory(
    found: &mut Examination<'_>,
    manifest: &Manifest,
    patient: &Patient<'_>,
    role: Role,
    is_cuda: bool,
) {
    let theta = 4 * manifest.model.num_parameters() as u64;
    let needed = match role {
        Role::Miner => {
            let setup = setup(manifest, Some((&patient.settings.compute, is_cuda)));
            let device = plan::memory(&setup).total();
            if is_cuda {
                gpu_memory(found, device);
            }
            plan::host_memory(&setup).total() + if is_cuda { 0 } else { device * setup.gpus }
        }
        // θ, the model's own copy of it, and one with an update added. An aggregator: θ before and after, and the error feedback.
        Role::Validator | Role::Aggregator => 3 * theta,
    };
    let Some((total, free)) = host_memory() else {
        return found.unknown("memory", "the system does not tell how much there is");
    };
    let said = format!("{} of {} free, about {} needed", gib(free), gib(total), gib(needed));
    match (needed > total, needed > free) {
        (true, _) => drop(found.bad("memory", said, LESS_MEMORY)),
        // Perhaps it is this very role that has the rest.
        (_, true) => {
            found.warn("memory", said, "end what else uses it, unless that is this role already at work");
        }
        _ => found.good("memory", said),
    }
}

const LESS_MEMORY: &str = "set compute.micro_batch lower or compute.recompute = \"all\" (`brigade plan` shows what that saves), or use a machine with more memory";

/// Compares with what the driver says of the smallest GPU.
fn gpu_memory(found: &mut Examination<'_>, needed: u64) {
    let asked = std::process::Command::new("nvidia-smi")
        .args(["--query-gpu=memory.total", "--format=csv,noheader,nounits"])
        .output();
    let text = asked.map(|output| String::from_utf8_lossy(&output.stdout).into_owned()).unwrap_or_default();
    let Some(total) = text.lines().filter_map(|line| line.trim().parse::<u64>().ok()).min() else {
        return found.unknown("gpu_memory", "nvidia-smi does not tell how much the GPU has");
    };
    let total = total << 20;
    let said = format!("{} on a GPU, about {} needed", gib(total), gib(needed));
    if needed > total {
        found.bad("gpu_memory", said, LESS_MEMORY);
    } else {
        found.good("gpu_memory", said);
    }
}

/// Bytes that the process may have at most, and those that are free now: the system's, or the control group's. Files that are only
/// cached count as free.
fn host_memory() -> Option<(u64, u64)> {
    let text = std::fs::read_to_string("/proc/meminfo").ok()?;
    let line = |name: &str| -> Option<u64> {
        let line = text.lines().find_map(|line| line.strip_prefix(name))?;
        Some(line.trim().trim_end_matches(" kB").parse::<u64>().ok()? << 10)
    };
    let (total, available) = (line("MemTotal:")?, line("MemAvailable:")?);
    let group = |name: &str| std::fs::read_to_string(Path::new("/sys/fs/cgroup").join(name)).ok();
    let number = |name: &str| group(name)?.trim().parse::<u64>().ok();
    let Some(most) = number("memory.max") else { return Some((total, available)) };
    let cached = group("memory.stat").and_then(|text| {
        text.lines().find_map(|line| line.strip_prefix("inactive_file "))?.trim().parse::<u64>().ok()
    });
    let used = number("memory.current").unwrap_or(0).saturating_sub(cached.unwrap_or(0));
    Some((total.min(most), available.min(most.saturating_sub(used))))
}

fn disk(found: &mut Examination<'_>, manifest: &Manifest, state: &Path, role: Role, shards: u64) {
    // Before the first start the folder is not there: what it will lie in is asked.
    let Some(folder) = state.ancestors().find(|folder| folder.exists()) else { return };
    let Ok(system) = rustix::fs::statvfs(folder) else {
        return found.unknown("disk", "the system does not tell how much is free");
    };
    let free = system.f_bavail.saturating_mul(system.f_frsize);
    let theta = 4 * manifest.model.num_parameters() as u64;
    let most = match role {
        // Two states of about three θ, and one that is being written.
        Role::Miner => 9 * theta + shards,
        Role::Validator => shards,
        Role::Aggregator => theta,
    };
    let there = walkdir::WalkDir::new(state).into_iter().flatten();
    let there: u64 = there.filter_map(|entry| entry.metadata().ok()).map(|file| file.len()).sum();
    let needed = most.saturating_sub(there);
    let said = format!("{} free for {}, at most {} more needed", gib(free), state.display(), gib(needed));
    let remedy = "make room, or set `state` to a folder on a larger disk";
    match (needed > free, needed > free / 10 * 9) {
        (true, _) => drop(found.bad("disk", said, remedy)),
        (_, true) => found.warn("disk", said, remedy),
        _ => found.good("disk", said),
    }
}

fn gib(bytes: u64) -> String {
    let gib = bytes as f64 / (1u64 << 30) as f64;
    if gib < 1.0 { format!("{:.0} MiB", gib * 1024.0) } else { format!("{gib:.1} GiB") }
}
