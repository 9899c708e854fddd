//! Which options go with which calls. One that means nothing to a call is an error of it: a caller that sets it expects something.

use core::fmt;

use crate::engine::options::{Backpressure, JobOptions};
use crate::error::{Error, Result};

/// A call that ends the description of a job.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Terminal {
    Submit,
    SubmitAsync,
    SubmitNamed,
    SubmitMany,
    Run,
    RunWith,
    Map,
    MapChunks,
    Reduce,
    MapWith,
    ForEachChunk,
    ForEachIndex,
    ReduceWith,
    MapZipWith,
    ForEachZipChunk,
    ReduceZipWith,
}

impl fmt::Display for Terminal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Submit => "submit",
            Self::SubmitAsync => "submit_async",
            Self::SubmitNamed => "submit_named",
            Self::SubmitMany => "submit_many",
            Self::Run => "run",
            Self::RunWith => "run_with",
            Self::Map => "map",
            Self::MapChunks => "map_chunks",
            Self::Reduce => "reduce",
            Self::MapWith => "map_with",
            Self::ForEachChunk => "for_each_chunk",
            Self::ForEachIndex => "for_each_index",
            Self::ReduceWith => "reduce_with",
            Self::MapZipWith => "map_zip_with",
            Self::ForEachZipChunk => "for_each_zip_chunk",
            Self::ReduceZipWith => "reduce_zip_with",
        })
    }
}

impl Terminal {
    /// Whether it gives a job, instead of blocking until the work is done.
    fn gives_job(self) -> bool {
        matches!(
            self,
            Self::Submit | Self::SubmitAsync | Self::SubmitNamed | Self::SubmitMany | Self::Run | Self::RunWith
        )
    }

    /// Whether it runs a closure, which worker processes cannot.
    fn runs_closure(self) -> bool {
        matches!(
            self,
            Self::Run
                | Self::RunWith
                | Self::MapWith
                | Self::ForEachChunk
                | Self::ForEachIndex
                | Self::ReduceWith
                | Self::MapZipWith
                | Self::ForEachZipChunk
                | Self::ReduceZipWith
        )
    }

    /// Why it has no use for a tag, if so.
    fn without_tag(self) -> Option<&'static str> {
        (!self.gives_job()).then_some("only jobs have tags")
    }

    fn without_retry(self) -> Option<&'static str> {
        self.runs_closure().then_some("closures run on threads of this process, which do not die alone")
    }

    fn without_chunk_len(self) -> Option<&'static str> {
        match self {
            Self::Map
            | Self::Reduce
            | Self::MapWith
            | Self::ForEachIndex
            | Self::ReduceWith
            | Self::MapZipWith
            | Self::ReduceZipWith => None,
            Self::MapChunks | Self::ForEachChunk | Self::ForEachZipChunk => {
                Some("its Chunking says how long chunks are")
            }
            _ => Some("it is not cut into chunks"),
        }
    }

    fn without_meter(self) -> Option<&'static str> {
        self.gives_job().then_some("jobs have progress of their own, see Job::progress")
    }

    fn without_limited_wait(self) -> Option<&'static str> {
        let has_no_clock = self == Self::SubmitAsync;
        has_no_clock.then_some("a future has no clock of its own: say Wait, and give it a timeout of your runtime")
    }

    /// Whether everything that was said means something to this call.
    ///
    /// # Errors
    /// [`Error::InvalidArgument`] that names option and call.
    #[inline]
    pub(super) fn check(self, said: &JobOptions, has_meter: bool) -> Result<()> {
        let is_usual = said.tag == 0
            && said.retry.is_none()
            && said.chunk_len.is_none()
            && said.backpressure.is_none()
            && !has_meter;
        if is_usual { Ok(()) } else { self.check_said(said, has_meter) }
    }

    #[cold]
    fn check_said(self, said: &JobOptions, has_meter: bool) -> Result<()> {
        let limits_wait = matches!(said.backpressure, Some(Backpressure::WaitFor(_)));
        let refused = [
            ("tag", said.tag != 0, self.without_tag()),
            ("retry", said.retry.is_some(), self.without_retry()),
            ("chunk_len", said.chunk_len.is_some(), self.without_chunk_len()),
            ("meter", has_meter, self.without_meter()),
            ("backpressure(WaitFor)", limits_wait, self.without_limited_wait()),
        ];
        let first =
            refused.into_iter().find_map(|(option, is_said, why)| why.filter(|_| is_said).map(|why| (option, why)));
        match first {
            None => Ok(()),
            Some((option, why)) => Err(Error::invalid(format!("{option} means nothing to {self}: {why}"))),
        }
    }
}
