//! Groups of threads.
#![allow(clippy::unwrap_used)]

use std::os::unix::net::UnixStream;
use std::sync::Arc;

use tch::{Kind, Tensor};

use super::Group;
use crate::Error;

/// `world` ranks, each to be given to a thread of its own.
pub(crate) fn groups(world: usize) -> Vec<Arc<Group>> {
    let pairs: Vec<_> = (0..world).flat_map(|b| (0..b).map(move |a| (a, b))).collect();
    let mut sockets: Vec<Vec<Option<UnixStream>>> =
        (0..world).map(|_| (0..world).map(|_| None).collect()).collect();
    for (a, b) in pairs {
        let (one, other) = UnixStream::pair().unwrap();
        (sockets[a][b], sockets[b][a]) = (Some(one), Some(other));
    }
    sockets.into_iter().enumerate().map(|(rank, sockets)| Group::new(rank, sockets, None).unwrap()).collect()
}

/// Runs `work` on all ranks at once.
pub(crate) fn on_all<R: Send>(world: usize, work: impl Fn(Arc<Group>) -> R + Sync) -> Vec<R> {
    std::thread::scope(|scope| {
        let ranks: Vec<_> = groups(world).into_iter().map(|group| scope.spawn(|| work(group))).collect();
        ranks.into_iter().map(|rank| rank.join().unwrap()).collect()
    })
}

#[test]
fn shards_are_gathered_and_sums_are_scattered() {
    for kind in [Kind::Float, Kind::BFloat16] {
        on_all(3, |group| {
            let rank = group.rank() as f64;
            let of = |values: &[f64]| Tensor::from_slice(values).to_kind(kind);
            // Started first, waited for last.
            let gathering = group.all_gather(&of(&[rank, rank + 0.5])).unwrap();
            let full: Vec<f64> = (0..6).map(|i| f64::from(i) + 10.0 * rank).collect();
            let sum = group.reduce_scatter(&of(&full)).unwrap().wait().unwrap();
            assert_eq!(sum, of(&[6.0 * rank + 30.0, 6.0 * rank + 33.0]));
            assert_eq!(gathering.wait().unwrap(), of(&[0.0, 0.5, 1.0, 1.5, 2.0, 2.5]));
            assert_eq!(group.sum(&[rank, 1.0]).unwrap(), [3.0, 3.0]);
            let shares = (rank == 0.0).then(|| vec![vec![0], vec![1], vec![2, 2]]);
            assert_eq!(group.scatter(shares).unwrap()[0], rank as u8);
            let bytes = (rank == 0.0).then(|| vec![7; 3]);
            assert_eq!(group.broadcast(bytes).unwrap(), [7; 3]);
            let all = group.collect(vec![rank as u8]).unwrap();
            assert_eq!(all, (rank == 0.0).then(|| vec![vec![0], vec![1], vec![2]]));
        });
    }
}

#[test]
fn a_rank_that_fails_is_named_with_its_reason_by_all() {
    let ends = on_all(3, |group| match group.rank() {
        0 => group.sum(&[1.0]).unwrap_err().to_string(),
        1 => {
            group.fail(&Error::Rank { rank: 1, reason: "no memory".into() });
            String::new()
        }
        _ => {
            // It learns of it, and passes it on.
            let error = group.sum(&[1.0]).unwrap_err();
            group.fail(&error);
            error.to_string()
        }
    });
    for end in [&ends[0], &ends[2]] {
        assert_eq!(end, "rank 1 of this peer is lost: no memory");
    }
}

#[test]
fn what_nobody_waits_for_is_not_kept() {
    on_all(2, |group| {
        let shard = Tensor::from_slice(&[1.0_f32; 100]);
        for _ in 0..3 {
            drop(group.all_gather(&shard).unwrap());
            group.sum(&[1.0]).unwrap();
            let under_way = group.reduce_scatter(&shard).unwrap();
            group.sum(&[1.0]).unwrap();
            drop(under_way);
        }
        group.sum(&[1.0]).unwrap();
        assert_eq!(group.untaken(), 0);
    });
}
