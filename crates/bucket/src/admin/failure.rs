//! The SDK's errors, in this crate's words.

use aws_sdk_s3::config::http::HttpResponse;
use aws_sdk_s3::error::{ProvideErrorMetadata, SdkError};
use object_store::client::HttpErrorKind;

use crate::cause::{Cause, deepest, one_line};

/// An error of the SDK, whatever the operation.
pub(super) trait Told {
    fn cause(&self) -> Cause;
}

pub(super) fn cause(error: &impl Told) -> Cause {
    error.cause()
}

impl<E: ProvideErrorMetadata + std::error::Error + 'static> Told for SdkError<E, HttpResponse> {
    fn cause(&self) -> Cause {
        let transport = match self {
            Self::DispatchFailure(failure) if failure.is_io() || failure.is_timeout() => {
                Some(HttpErrorKind::Connect)
            }
            Self::TimeoutError(_) => Some(HttpErrorKind::Timeout),
            Self::ResponseError(_) => Some(HttpErrorKind::Interrupted),
            _ => None,
        };
        // Only the code and the message: the rest quotes headers.
        let message = self.message().map_or_else(|| deepest(self), str::to_owned);
        Cause {
            status: self.raw_response().map(|response| response.status().as_u16()),
            code: self.code().map(|code| one_line(code, 64)),
            message: one_line(&message, 200),
            transport,
        }
    }
}
