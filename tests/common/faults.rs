//! System calls of a thread that fail: the first, the second and so on, by a
//! seccomp filter that asks a thread of the same process about each.
//!
//! Calls of other threads go on, also of those that the thread starts, which have
//! its filter. `clone` is not asked about: threads are what the filter is of.

use std::fmt;
use std::fmt::Display;
use std::io;
use std::mem::offset_of;
use std::ops::Range;
use std::os::fd::AsFd;
use std::os::fd::AsRawFd;
use std::os::fd::FromRawFd;
use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::sync::Mutex;
use std::sync::MutexGuard;
use std::sync::PoisonError;
use std::sync::mpsc;
use std::thread;
use std::time::Duration;

use nix::errno::Errno;
use nix::libc;
use nix::poll::PollFd;
use nix::poll::PollFlags;
use nix::poll::PollTimeout;
use nix::poll::poll;
use nix::unistd::gettid;

/// How long threads that a test has started may take to end.
const PATIENCE: Duration = Duration::from_secs(20);

/// The calls that can fail, each with an error that it may have. Of `mmap` only
/// those of files.
const CALLS: &[(libc::c_long, &str, Errno)] = &[
    (libc::SYS_bpf, "bpf", Errno::ENOMEM),
    (libc::SYS_socket, "socket", Errno::EMFILE),
    (libc::SYS_bind, "bind", Errno::EADDRINUSE),
    (libc::SYS_setsockopt, "setsockopt", Errno::ENOBUFS),
    (libc::SYS_sendto, "sendto", Errno::ENOBUFS),
    (libc::SYS_sendmsg, "sendmsg", Errno::ENOBUFS),
    (libc::SYS_recvfrom, "recvfrom", Errno::ENOBUFS),
    (libc::SYS_recvmsg, "recvmsg", Errno::ENOBUFS),
    (libc::SYS_mmap, "mmap", Errno::ENOMEM),
    (libc::SYS_openat, "openat", Errno::EMFILE),
    (libc::SYS_getdents64, "getdents64", Errno::ENOMEM),
    (libc::SYS_statx, "statx", Errno::ENOMEM),
    (libc::SYS_statfs, "statfs", Errno::ENOMEM),
    (libc::SYS_unlinkat, "unlinkat", Errno::EPERM),
    (libc::SYS_renameat, "renameat", Errno::EPERM),
    (libc::SYS_renameat2, "renameat2", Errno::EPERM),
    (libc::SYS_mkdirat, "mkdirat", Errno::ENOSPC),
    (libc::SYS_flock, "flock", Errno::ENOLCK),
    (libc::SYS_ioctl, "ioctl", Errno::ENOMEM),
    (libc::SYS_eventfd2, "eventfd2", Errno::EMFILE),
    #[cfg(target_arch = "x86_64")]
    (libc::SYS_unlink, "unlink", Errno::EPERM),
    #[cfg(target_arch = "x86_64")]
    (libc::SYS_rmdir, "rmdir", Errno::EPERM),
    #[cfg(target_arch = "x86_64")]
    (libc::SYS_rename, "rename", Errno::EPERM),
    #[cfg(target_arch = "x86_64")]
    (libc::SYS_mkdir, "mkdir", Errno::ENOSPC),
];

/// A call that was asked about.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Call {
    /// What it is of [`CALLS`].
    kind: usize,
    /// What it is to do, where one call does many things.
    command: u64,
}

impl Call {
    fn of(data: &libc::seccomp_data) -> Option<Self> {
        let number = libc::c_long::from(data.nr);
        let kind = CALLS.iter().position(|(call, ..)| *call == number)?;
        let command = match number {
            libc::SYS_bpf => data.args[0],
            libc::SYS_ioctl => data.args[1],
            _ => 0,
        };
        Some(Self { kind, command })
    }

    fn errno(self) -> Errno {
        CALLS[self.kind].2
    }
}

impl Display for Call {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (_, name, errno) = CALLS[self.kind];
        write!(f, "{name}({}): {errno:?}", self.command)
    }
}

/// Lets calls of a thread fail.
#[derive(Debug)]
pub struct Faults {
    state: Arc<Mutex<State>>,
}

/// What the thread that is asked knows.
#[derive(Debug, Default)]
struct State {
    /// The thread whose calls count, if any.
    thread: Option<u32>,
    /// Those of its calls that fail, by their place.
    failing: Range<usize>,
    calls: Vec<Call>,
}

impl Faults {
    /// Runs a test on a new thread whose calls can fail; that all threads which it
    /// starts have ended afterwards is asserted. Where the kernel has no such
    /// filters the test is skipped, which is told.
    pub fn with<T: Send>(test: impl FnOnce(&Self) -> T + Send) -> Option<T> {
        let state = Arc::new(Mutex::new(State::default()));
        let (listener, listeners) = mpsc::channel();
        let (ended, end) = mpsc::channel::<()>();
        let asked = Arc::clone(&state);
        // It ends with the last thread that has the filter.
        thread::spawn(move || {
            if let Ok(listener) = listeners.recv() {
                answer(&listener, &asked);
            }
            drop(ended);
        });
        let result = thread::scope(|scope| {
            let test = scope.spawn(|| {
                match install() {
                    Ok(filter) => listener.send(filter).expect("the other thread waits for it"),
                    Err(error) => {
                        println!("skipped: no filter can ask about system calls: {error}");
                        drop(listener);
                        return None;
                    }
                }
                Some(test(&Self { state }))
            });
            test.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))
        });
        let left = end.recv_timeout(PATIENCE);
        assert_eq!(left, Err(mpsc::RecvTimeoutError::Disconnected), "a thread goes on");
        result
    }

    /// Does something while these of this thread's calls fail, by their place, and
    /// returns all of them.
    pub fn fail<T>(&self, failing: Range<usize>, action: impl FnOnce() -> T) -> (T, Vec<Call>) {
        let thread = gettid().as_raw() as u32;
        *self.state() = State { thread: Some(thread), failing, calls: Vec::new() };
        let result = action();
        let calls = std::mem::take(&mut *self.state()).calls;
        (result, calls)
    }

    fn state(&self) -> MutexGuard<'_, State> {
        lock(&self.state)
    }
}

fn lock(state: &Mutex<State>) -> MutexGuard<'_, State> {
    state.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Has this thread's calls asked about; by what comes where they are.
#[expect(unsafe_code, reason = "a system call without a wrapper")]
fn install() -> io::Result<OwnedFd> {
    let program = filter();
    let program =
        libc::sock_fprog { len: program.len() as u16, filter: program.as_ptr().cast_mut() };
    // SAFETY: the program is as long as said, and the kernel copies it.
    let fd = unsafe {
        libc::syscall(
            libc::SYS_seccomp,
            libc::SECCOMP_SET_MODE_FILTER,
            libc::SECCOMP_FILTER_FLAG_NEW_LISTENER,
            &raw const program,
        )
    };
    let fd = Errno::result(fd)?;
    // SAFETY: the call made this descriptor for us.
    Ok(unsafe { OwnedFd::from_raw_fd(fd as i32) })
}

/// The filter: the number of the call is compared with each of [`CALLS`].
fn filter() -> Vec<libc::sock_filter> {
    const LOAD: u32 = libc::BPF_LD | libc::BPF_W | libc::BPF_ABS;
    const EQUAL: u32 = libc::BPF_JMP | libc::BPF_JEQ | libc::BPF_K;
    const SET: u32 = libc::BPF_JMP | libc::BPF_JSET | libc::BPF_K;
    const RETURN: u32 = libc::BPF_RET | libc::BPF_K;
    let instruction =
        |code: u32, k: u32, jt: u8, jf: u8| libc::sock_filter { code: code as u16, jt, jf, k };
    let mut program = vec![instruction(LOAD, offset_of!(libc::seccomp_data, nr) as u32, 0, 0)];
    for (number, ..) in CALLS {
        let mut asks = vec![instruction(RETURN, libc::SECCOMP_RET_USER_NOTIF, 0, 0)];
        if *number == libc::SYS_mmap {
            // The low half of the fourth argument, the flags.
            let low = if cfg!(target_endian = "big") { 4 } else { 0 };
            let flags = offset_of!(libc::seccomp_data, args) + 3 * size_of::<u64>() + low;
            let anonymous = libc::MAP_ANONYMOUS as u32;
            asks.insert(0, instruction(LOAD, flags as u32, 0, 0));
            asks.insert(1, instruction(SET, anonymous, 0, 1));
            asks.insert(2, instruction(RETURN, libc::SECCOMP_RET_ALLOW, 0, 0));
        }
        program.push(instruction(EQUAL, *number as u32, 0, asks.len() as u8));
        program.extend(asks);
    }
    program.push(instruction(RETURN, libc::SECCOMP_RET_ALLOW, 0, 0));
    program
}

/// Answers until no thread has the filter any more.
#[expect(unsafe_code, reason = "ioctls without a wrapper")]
fn answer(listener: &OwnedFd, state: &Mutex<State>) {
    loop {
        let mut files = [PollFd::new(listener.as_fd(), PollFlags::POLLIN)];
        let polled = poll(&mut files, PollTimeout::NONE);
        let heard = files[0].revents().unwrap_or(PollFlags::empty());
        match polled {
            Err(Errno::EINTR) => continue,
            _ if heard.contains(PollFlags::POLLIN) => {}
            _ => return,
        }
        // SAFETY: it consists of numbers.
        let mut asked: libc::seccomp_notif = unsafe { std::mem::zeroed() };
        let file = listener.as_raw_fd();
        // SAFETY: the record is what the kernel writes.
        let result = unsafe { libc::ioctl(file, libc::SECCOMP_IOCTL_NOTIF_RECV, &raw mut asked) };
        if result != 0 {
            // Who asked was killed meanwhile.
            continue;
        }
        let failure = failure(&mut lock(state), &asked);
        let mut said = libc::seccomp_notif_resp {
            id: asked.id,
            val: 0,
            error: failure.map_or(0, |errno| -(errno as i32)),
            flags: match failure {
                Some(_) => 0,
                None => libc::SECCOMP_USER_NOTIF_FLAG_CONTINUE as u32,
            },
        };
        // SAFETY: the record is what the kernel reads. Should who asked be gone,
        // nobody needs the answer.
        let _ = unsafe { libc::ioctl(file, libc::SECCOMP_IOCTL_NOTIF_SEND, &raw mut said) };
    }
}

/// The error that a call has; `None`: it goes on.
fn failure(state: &mut State, asked: &libc::seccomp_notif) -> Option<Errno> {
    if state.thread != Some(asked.pid) {
        return None;
    }
    let call = Call::of(&asked.data)?;
    state.calls.push(call);
    state.failing.contains(&(state.calls.len() - 1)).then(|| call.errno())
}
