//! Which CPU a thread runs on: a test run of a program happens on that of its
//! thread, and each CPU remembers what it saw of late.

use std::thread;

use nix::sched::CpuSet;
use nix::sched::sched_getcpu;
use nix::sched::sched_setaffinity;
use nix::unistd::Pid;

/// The thread runs on this CPU from now on, if the machine has it.
pub fn pin(cpu: usize) {
    let only_one = thread::available_parallelism().is_ok_and(|n| n.get() <= cpu);
    if only_one {
        println!("there is no CPU {cpu}: this thread shares one");
    } else {
        set(cpu);
    }
}

/// The thread stays on the CPU that it is on.
pub fn stay() {
    set(sched_getcpu().expect("a CPU"));
}

fn set(cpu: usize) {
    let mut set = CpuSet::new();
    set.set(cpu).expect("a CPU's number");
    sched_setaffinity(Pid::from_raw(0), &set).expect("the CPU is there");
}
