/* Runs the model on every sample of a file, inside an emulator: no system below it, files through semihosting. */
#include <stdint.h>

struct place {
    void *const *at;
    uint32_t bytes;
};
extern const struct place harness_inputs[];
extern const struct place harness_outputs[];
extern const uint32_t harness_input_count, harness_output_count, harness_samples;
void model_run(void);

extern uint32_t link_data_from, link_data, link_data_end, link_bss, link_bss_end, link_stack_end;

enum { SYS_OPEN = 0x01, SYS_CLOSE = 0x02, SYS_WRITE = 0x05, SYS_READ = 0x06, SYS_EXIT = 0x18 };
enum { READ_BINARY = 1, WRITE_BINARY = 5 };
#define STOPPED_DONE 0x20026u
#define STOPPED_ERROR 0x20023u
#define PAINT 0xA5C35A3Cu

/* A counter of the board, one tick in 40 instructions where an instruction takes a nanosecond. */
#define TIMER_CONTROL (*(volatile uint32_t *)0x40000000u)
#define TIMER_VALUE (*(volatile uint32_t *)0x40000004u)
#define TIMER_RELOAD (*(volatile uint32_t *)0x40000008u)
#define COPROCESSOR_ACCESS (*(volatile uint32_t *)0xE000ED88u)

static uint32_t ask_host(uint32_t operation, const void *argument) {
    register uint32_t r0 __asm__("r0") = operation;
    register const void *r1 __asm__("r1") = argument;
    __asm__ volatile("bkpt 0xAB" : "+r"(r0) : "r"(r1) : "memory");
    return r0;
}

static void stop(uint32_t reason) {
    for (;;)
        ask_host(SYS_EXIT, (const void *)reason);
}

static uint32_t open_file(const char *name, uint32_t length, uint32_t mode) {
    const uint32_t block[3] = {(uint32_t)name, mode, length};
    const uint32_t handle = ask_host(SYS_OPEN, block);
    if (handle == 0xFFFFFFFFu)
        stop(STOPPED_ERROR);
    return handle;
}

static void transfer(uint32_t operation, uint32_t handle, void *at, uint32_t bytes) {
    const uint32_t block[3] = {handle, (uint32_t)at, bytes};
    if (bytes != 0 && ask_host(operation, block) != 0)
        stop(STOPPED_ERROR);
}

static uint32_t *stack_pointer(void) {
    uint32_t *value;
    __asm__ volatile("mov %0, sp" : "=r"(value));
    return value;
}

/* The words between the end of the data and the stack as it is now are painted; what the model writes over, it used.
   Nothing here is called between painting and looking but the model. */
__attribute__((noinline)) static uint32_t run_and_measure(uint32_t *ticks) {
    uint32_t *const top = stack_pointer();
    for (uint32_t *word = &link_bss_end; word < top; ++word)
        *word = PAINT;
    const uint32_t start = TIMER_VALUE;
    model_run();
    *ticks = start - TIMER_VALUE;
    const uint32_t *word = &link_bss_end;
    while (word < top && *word == PAINT)
        ++word;
    return 4u * (uint32_t)(top - word);
}

static void run_all(void) {
    const uint32_t samples = open_file("samples.bin", 11, READ_BINARY);
    const uint32_t results = open_file("results.bin", 11, WRITE_BINARY);
    const uint32_t figures = open_file("figures.bin", 11, WRITE_BINARY);
    TIMER_RELOAD = 0xFFFFFFFFu;
    TIMER_VALUE = 0xFFFFFFFFu;
    TIMER_CONTROL = 1;
    for (uint32_t sample = 0; sample < harness_samples; ++sample) {
        uint32_t figure[2];
        for (uint32_t i = 0; i < harness_input_count; ++i)
            transfer(SYS_READ, samples, *harness_inputs[i].at, harness_inputs[i].bytes);
        figure[1] = run_and_measure(&figure[0]);
        for (uint32_t i = 0; i < harness_output_count; ++i)
            transfer(SYS_WRITE, results, *harness_outputs[i].at, harness_outputs[i].bytes);
        transfer(SYS_WRITE, figures, figure, sizeof figure);
    }
    ask_host(SYS_CLOSE, &samples);
    ask_host(SYS_CLOSE, &results);
    ask_host(SYS_CLOSE, &figures);
}

__attribute__((noreturn)) void harness_reset(void) {
    COPROCESSOR_ACCESS |= 0xFu << 20; /* the floating-point unit */
    __asm__ volatile("dsb\n\tisb");
    const uint32_t *from = &link_data_from;
    for (uint32_t *to = &link_data; to < &link_data_end;)
        *to++ = *from++;
    for (uint32_t *to = &link_bss; to < &link_bss_end;)
        *to++ = 0;
    run_all();
    for (;;)
        stop(STOPPED_DONE);
}

static void fault(void) {
    stop(STOPPED_ERROR);
}

__attribute__((section(".vectors"), used)) const void *const harness_vectors[16] = {
    &link_stack_end,     (const void *)harness_reset, (const void *)fault, (const void *)fault,
    (const void *)fault, (const void *)fault,         (const void *)fault,
};
