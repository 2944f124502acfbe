//! Several futures in one task, without allocation: all of them, or the first of them.
//!
//! Every poll of a combinator polls each child that is not ready yet, since they share their task's
//! waker. A `select` drops the children that lost when it is dropped itself, which is right after its
//! `await`. Any task may use them; they touch no core's state.

use core::future::Future;
use core::pin::Pin;
use core::task::{Context, Poll};

use pin_project_lite::pin_project;
