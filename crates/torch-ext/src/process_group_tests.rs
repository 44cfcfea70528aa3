#![allow(clippy::unwrap_used)]

use std::fs::File;
use std::path::PathBuf;

use tch::Kind;

use super::*;

/// A file that is removed at once in a folder of the tests' own, and still there under the path that is given back.
fn meeting(name: &str) -> (File, PathBuf) {
    use std::os::fd::AsRawFd;
    let path = std::env::temp_dir().join(format!("brigade-group-{}-{name}", std::process::id()));
    let file = File::options().read(true).write(true).create_new(true).open(&path).unwrap();
    std::fs::remove_file(&path).unwrap();
    let by_number = PathBuf::from(format!("/proc/self/fd/{}", file.as_raw_fd()));
    (file, by_number)
}

fn on_all<R: Send>(name: &str, world: usize, work: impl Fn(usize, Arc<ProcessGroup>) -> R + Sync) -> Vec<R> {
    let (_file, path) = meeting(name);
    std::thread::scope(|scope| {
        let (path, work) = (&path, &work);
        let rank = |rank| {
            scope.spawn(move || {
                let timeout = Duration::from_secs(60);
                let group = ProcessGroup::new(Transport::File, path, rank, world, timeout).unwrap();
                work(rank, Arc::new(group))
            })
        };
        let ranks: Vec<_> = (0..world).map(rank).collect();
        ranks.into_iter().map(|rank| rank.join().unwrap()).collect()
    })
}

#[test]
fn shards_are_gathered_and_sums_are_scattered() {
    for kind in [Kind::Float, Kind::BFloat16] {
        on_all("sums", 3, |rank, group| {
            let r = rank as f64;
            let of = |values: &[f64]| Tensor::from_slice(values).to_kind(kind);
            // Started first, waited for last.
            let gathering = group.all_gather(&of(&[r, r + 0.5])).unwrap();
            drop(group.all_gather(&of(&[9.0])).unwrap());
            let full: Vec<f64> = (0..6).map(|i| f64::from(i) + 10.0 * r).collect();
            let sum = group.reduce_scatter(&of(&full)).unwrap().wait().unwrap();
            assert_eq!(sum, of(&[6.0 * r + 30.0, 6.0 * r + 33.0]));
            assert_eq!(gathering.wait().unwrap(), of(&[0.0, 0.5, 1.0, 1.5, 2.0, 2.5]));
            group.check().unwrap();
        });
    }
}

#[test]
fn what_a_backend_would_trust_is_refused() {
    let ones = |shape: &[i64]| Tensor::ones(shape, (Kind::Float, tch::Device::Cpu));
    on_all("refused", 2, |_, group| {
        assert!(group.all_gather(&ones(&[2, 2])).is_err(), "not 1-D");
        assert!(group.all_gather(&ones(&[8, 2]).select(1, 0)).is_err(), "not contiguous");
        assert!(group.reduce_scatter(&ones(&[3])).is_err(), "no multiple of the ranks");
    });
    let (_file, path) = meeting("rank");
    let new = |transport| ProcessGroup::new(transport, &path, 2, 2, Duration::from_secs(1));
    assert!(new(Transport::File).unwrap_err().to_string().contains("rank 2 of 2"));
}

#[test]
fn aborting_releases_who_waits() {
    let (_file, path) = meeting("abort");
    let group = ProcessGroup::new(Transport::File, &path, 0, 2, Duration::from_secs(60)).unwrap();
    let group = Arc::new(group);
    // Nobody else comes.
    let gathering = group.all_gather(&Tensor::from_slice(&[1.0_f32])).unwrap();
    std::thread::scope(|scope| {
        let waiting = scope.spawn(|| gathering.wait());
        std::thread::sleep(Duration::from_millis(50));
        group.abort().unwrap();
        let error = waiting.join().unwrap().unwrap_err().to_string();
        assert!(error.contains("aborted"), "{error}");
    });
}

#[test]
fn nccl_is_there_with_a_gpu_and_its_absence_is_said() {
    let (_file, path) = meeting("nccl");
    let group = ProcessGroup::new(Transport::Nccl, &path, 0, 1, Duration::from_secs(60));
    if !(cfg!(feature = "cuda") && tch::Cuda::is_available()) {
        let error = group.unwrap_err();
        assert!(matches!(error, Error::Torch { .. }), "{error}");
        return;
    }
    let group = Arc::new(group.unwrap());
    let shard = Tensor::from_slice(&[1.0_f32, 2.0]).to_device(tch::Device::Cuda(0));
    assert_eq!(group.all_gather(&shard).unwrap().wait().unwrap(), shard);
    assert_eq!(group.reduce_scatter(&shard).unwrap().wait().unwrap(), shard);
    group.check().unwrap();
}
