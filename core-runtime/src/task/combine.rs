//! Several futures in one task, without allocation: all of them, or the first of them.
//!
//! Every poll of a combinator polls each child that is not ready yet, since they share their task's
//! waker. A `select` drops the children that lost when it is dropped itself, which is right after
//! its `await`. Any task may use them; they touch no core's state.

use core::future::Future;
use core::pin::Pin;
use core::task::{Context, Poll};

use pin_project_lite::pin_project;

// A child of a `join`: its future, then its output.
pin_project! {
    #[project = MaybeDoneProj]
    #[project_replace = MaybeDoneOwn]
    enum MaybeDone<F: Future> {
        Waiting { #[pin] future: F },
        Done { output: F::Output },
        Taken,
    }
}

impl<F: Future> MaybeDone<F> {
    /// Polls it if it still waits; returns whether it is done.
    fn advance(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> bool {
        if let MaybeDoneProj::Waiting { future } = self.as_mut().project() {
            match future.poll(cx) {
                Poll::Pending => return false,
                Poll::Ready(output) => self.project_replace(Self::Done { output }),
            };
        }
        true
    }

    /// # Panics
    /// If it is not done, or was taken before: the combinator was polled after it was ready.
    fn take(self: Pin<&mut Self>) -> F::Output {
        match self.project_replace(Self::Taken) {
            MaybeDoneOwn::Done { output } => output,
            _ => panic!("a join was polled after it was ready"),
        }
    }
}

macro_rules! join {
    ($function:ident, $name:ident, $count:literal, $($child:ident: $future:ident),+) => {
        pin_project! {
            #[doc = concat!("Made by [`", stringify!($function), "`].")]
            #[must_use = "a join does nothing unless it is awaited"]
            pub struct $name<$($future: Future),+> {
                $(#[pin] $child: MaybeDone<$future>,)+
            }
        }

        #[doc = concat!("Waits for ", $count, " futures and returns their outputs.")]
        pub const fn $function<$($future: Future),+>($($child: $future),+) -> $name<$($future),+> {
            $name { $($child: MaybeDone::Waiting { future: $child },)+ }
        }

        impl<$($future: Future),+> Future for $name<$($future),+> {
            type Output = ($($future::Output,)+);

            fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
                let mut this = self.project();
                let mut done = true;
                $(done &= this.$child.as_mut().advance(cx);)+
                if done {
                    Poll::Ready(($(this.$child.take(),)+))
                } else {
                    Poll::Pending
                }
            }
        }
    };
}

join!(join, Join2, "two", first: A, second: B);
join!(join3, Join3, "three", first: A, second: B, third: C);
join!(join4, Join4, "four", first: A, second: B, third: C, fourth: D);

/// Made by [`join_array`]. Its children are pinned with it.
#[must_use = "a join does nothing unless it is awaited"]
pub struct JoinArray<F: Future, const N: usize> {
    children: [MaybeDone<F>; N],
}

/// Waits for all futures of an array and returns their outputs in its order.
pub fn join_array<F: Future, const N: usize>(futures: [F; N]) -> JoinArray<F, N> {
    JoinArray { children: futures.map(|future| MaybeDone::Waiting { future }) }
}

/// A pinned element of a pinned array.
fn element<T>(array: Pin<&mut [T]>, index: usize) -> Pin<&mut T> {
    // SAFETY: elements are pinned as long as their array is: nothing moves out of it.
    unsafe { array.map_unchecked_mut(|all| &mut all[index]) }
}

impl<F: Future, const N: usize> Future for JoinArray<F, N> {
    type Output = [F::Output; N];

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        // SAFETY: the children are pinned with the array: nothing moves out of them, there is no
        // `Drop`, and `Unpin` needs theirs.
        let mut children: Pin<&mut [MaybeDone<F>]> =
            unsafe { self.map_unchecked_mut(|this| this.children.as_mut_slice()) };
        let mut done = true;
        for index in 0..N {
            done &= element(children.as_mut(), index).advance(cx);
        }
        if done {
            let take = |index| element(children.as_mut(), index).take();
            Poll::Ready(core::array::from_fn(take))
        } else {
            Poll::Pending
        }
    }
}

/// What came first of two.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Either<A, B> {
    /// The first future.
    First(A),
    /// The second future.
    Second(B),
}

/// What came first of three.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Either3<A, B, C> {
    /// The first future.
    First(A),
    /// The second future.
    Second(B),
    /// The third future.
    Third(C),
}

macro_rules! select {
    ($function:ident, $name:ident, $either:ident, $count:literal,
     $($child:ident: $future:ident = $variant:ident),+) => {
        pin_project! {
            #[doc = concat!("Made by [`", stringify!($function), "`].")]
            #[must_use = "a select does nothing unless it is awaited"]
            pub struct $name<$($future),+> {
                $(#[pin] $child: $future,)+
            }
        }

        #[doc = concat!("Waits for the first of ", $count, " futures. Biased: where several are")]
        /// ready at once, the earliest argument wins, so put what must not starve first.
        pub const fn $function<$($future: Future),+>($($child: $future),+) -> $name<$($future),+> {
            $name { $($child,)+ }
        }

        impl<$($future: Future),+> Future for $name<$($future),+> {
            type Output = $either<$($future::Output),+>;

            fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
                let this = self.project();
                $(
                    if let Poll::Ready(output) = this.$child.poll(cx) {
                        return Poll::Ready($either::$variant(output));
                    }
                )+
                Poll::Pending
            }
        }
    };
}

select!(select, Select2, Either, "two", first: A = First, second: B = Second);
select!(select3, Select3, Either3, "three", first: A = First, second: B = Second, third: C = Third);

/// Made by [`select_array`]. Its children are pinned with it.
#[must_use = "a select does nothing unless it is awaited"]
pub struct SelectArray<F, const N: usize> {
    children: [F; N],
    first: usize,
}

/// Waits for the first future of an array: its output and its index. Fair from poll to poll: each
/// poll begins one child further, so none is always asked last. An empty array is never ready.
pub const fn select_array<F: Future, const N: usize>(children: [F; N]) -> SelectArray<F, N> {
    SelectArray { children, first: 0 }
}

impl<F: Future, const N: usize> Future for SelectArray<F, N> {
    type Output = (F::Output, usize);

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        // SAFETY: `first` is not pinned; the children are, and stay where they are: there is no
        // `Drop`, and `Unpin` needs theirs.
        let this = unsafe { self.get_unchecked_mut() };
        // SAFETY: as above.
        let mut children = unsafe { Pin::new_unchecked(this.children.as_mut_slice()) };
        let first = this.first;
        this.first = if first + 1 < N { first + 1 } else { 0 };
        for index in (first..N).chain(0..first.min(N)) {
            if let Poll::Ready(output) = element(children.as_mut(), index).poll(cx) {
                return Poll::Ready((output, index));
            }
        }
        Poll::Pending
    }
}
