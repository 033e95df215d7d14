/* Two threads that take turns: one gives work, the other does it.
 *
 * Between the parts of one event the helper spins, because waking a sleeping thread costs as much as rendering hundreds of
 * orders; when nothing comes for a while it sleeps.
 */
#ifndef COPYD_TURNS_H
#define COPYD_TURNS_H

#include <pthread.h>
#include <sched.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <time.h>

#define TURNS_SPIN_NS 300000L

typedef struct {
    pthread_mutex_t lock;
    pthread_cond_t woken;
    atomic_int given;  /* work waits */
    atomic_int busy;   /* work was given and is not done */
    atomic_int ended;
    atomic_int asleep; /* the helper waits on the condition */
} Turns;

static Turns *turns_new(void) {
    Turns *turns = (Turns *)calloc(1, sizeof(Turns));
    if (turns == NULL) return NULL;
    pthread_mutex_init(&turns->lock, NULL);
    pthread_cond_init(&turns->woken, NULL);
    return turns;
}

static void turns_free(Turns *turns) {
    pthread_cond_destroy(&turns->woken);
    pthread_mutex_destroy(&turns->lock);
    free(turns);
}

static inline void turns_relax(void) {
#if defined(__x86_64__)
    __builtin_ia32_pause();
#elif defined(__aarch64__)
    __asm__ __volatile__("yield");
#endif
}

static inline long turns_now(void) {
    struct timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now);
    return now.tv_sec * 1000000000L + now.tv_nsec;
}

/* The giver has written the work before. */
static void turns_give(Turns *turns) {
    atomic_store(&turns->busy, 1);
    atomic_store(&turns->given, 1);
    if (atomic_load(&turns->asleep)) {
        pthread_mutex_lock(&turns->lock);
        pthread_cond_signal(&turns->woken);
        pthread_mutex_unlock(&turns->lock);
    }
}

/* What the helper wrote is seen by who returns from here. */
static void turns_wait_done(Turns *turns) {
    for (int i = 0; atomic_load(&turns->busy); i++) {
        if (i < 20000) turns_relax();
        else sched_yield(); /* another program has the helper's core */
    }
}

static void turns_done(Turns *turns) { atomic_store(&turns->busy, 0); }

/* 1: there is work; 0: there will be none. */
static int turns_wait_given(Turns *turns) {
    long began = turns_now();
    for (;;) {
        for (int i = 0; i < 64; i++) {
            if (atomic_exchange(&turns->given, 0)) return 1;
            if (atomic_load(&turns->ended)) return 0;
            turns_relax();
        }
        if (turns_now() - began < TURNS_SPIN_NS) continue;
        pthread_mutex_lock(&turns->lock);
        atomic_store(&turns->asleep, 1);
        while (!atomic_load(&turns->given) && !atomic_load(&turns->ended)) pthread_cond_wait(&turns->woken, &turns->lock);
        atomic_store(&turns->asleep, 0);
        pthread_mutex_unlock(&turns->lock);
    }
}

static void turns_end(Turns *turns) {
    pthread_mutex_lock(&turns->lock);
    atomic_store(&turns->ended, 1);
    pthread_cond_signal(&turns->woken);
    pthread_mutex_unlock(&turns->lock);
}

#endif
